"""Text: corpora, files, named datasets, downloads and the embedded stories."""
