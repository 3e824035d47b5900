"""The toy accelerator in somebody else's machine room: behind a licence server and a queue."""
