"""What it was: taggers, recognisers, and the store of their files."""
