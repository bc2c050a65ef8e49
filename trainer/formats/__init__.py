"""The formats of data sets: files of rows, and the shapes that a row may have."""
