"""The process that runs a sweep: it prepares, starts Ray, records what comes back, and concludes."""
