"""Text: corpora, files, named data sets, downloads and the embedded stories."""
