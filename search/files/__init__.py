"""Files of a sweep: where they lie, how they are read and written, and who may."""
