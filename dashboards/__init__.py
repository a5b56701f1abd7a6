"""Reports of sweeps as HTML pages, made from their records alone."""
