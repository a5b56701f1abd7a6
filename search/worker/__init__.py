"""What runs in the processes of trials."""
