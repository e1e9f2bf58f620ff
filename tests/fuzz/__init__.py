"""A seeded fuzzer of everything that strangers' files go through: `make fuzz`, or `python -m tests.fuzz --help`.

A case is a subject, a seed and a number: the same three give the same file. It runs in a process of its own with a
deadline and a limit on its memory, and may end in success or in the project's own error, in nothing else.
"""
