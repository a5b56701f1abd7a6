"""What a sweep is, and the words for it: settings, spaces, addresses, faults, records of trials."""
