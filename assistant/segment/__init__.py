"""When something happened: pure state machines, time in samples."""
