"""The parts of a sweep's report, each a function of the sweep."""
