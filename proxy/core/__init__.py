"""The pure core: what an exchange is, how a chain runs, what a limit counts. No I/O, no clock, no loop."""
