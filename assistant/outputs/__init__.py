"""Who is told: one module per kind of output."""
