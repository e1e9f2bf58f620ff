"""Work on files that may crash, hang or take all memory, in a child process that is watched."""
