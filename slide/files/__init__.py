"""Files and folders that appear complete or not at all, and what is read from files safely.

==========  ============================================================
`atomic`    folders and files that are written aside and put in place when they are complete
`npy`       NumPy's .npy files: headers, blocks of rows, arrays mapped into memory
`fields`    JSON files, and the plain values in them, each checked
==========  ============================================================
"""
