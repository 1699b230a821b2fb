"""The admin plane: for operators, on a port of its own, bound to loopback unless told otherwise."""
