"""What one unit of work costs in instructions, against a recorded baseline: ``python -m guard``.

    python -m guard             measure, compare; 1 if a unit costs over 15 % more than recorded, or if the
                                environment says CI and there is no baseline of this version of Python
    python -m guard --record    measure, and make this the baseline of this version of Python

CPU times on a shared machine are off by more than what a guard has to notice; counts of instructions are not. A
worker with everything on runs under Valgrind's callgrind, and the other end of each of its sockets is in our hands:
one message at a time, so that it reads, forwards and goes back to sleep in the same steps every time. What is counted
lies between two marks, long after start-up. A second worker, without Valgrind, has its Python functions counted, so
that what has become dearer can be named.
"""
