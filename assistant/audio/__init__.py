"""Where sound comes from: one module per kind of source."""
