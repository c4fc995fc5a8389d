"""Cases and answers from the files of other programs."""
