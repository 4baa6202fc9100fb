"""Files and folders that appear complete or not at all, and safe reading of .npy and JSON files.

==========  ============================================================
`atomic`    folders and files that are written under another name and renamed when complete
`npy`       NumPy's .npy files: headers, blocks of rows, arrays mapped into memory
`fields`    JSON files, and the plain values in them, each of which is checked
`tables`    tables as aligned text
==========  ============================================================
"""
