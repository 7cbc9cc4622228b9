#!/bin/sh
# rich 15.0.0: combining marks that take up space (Unicode category Mc) are counted as 0 columns.
#
# Expected: the columns that terminals use. tmux 3.3a and xterm 379 draw a spacing mark such as U+093F or U+093E in one
# column, and wcswidth of the C library counts one as well.
# Seen: rich counts 0, so that whatever follows on the line, a border for example, is one column off for each mark.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rich==15.0.0
LC_ALL=C.UTF-8 "$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import locale
import sys
import unicodedata

from rich.cells import cell_len, get_character_cell_size

locale.setlocale(locale.LC_ALL, "C.UTF-8")
libc = ctypes.CDLL(None)
libc.wcwidth.argtypes = [ctypes.c_wchar]
marks = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Mc"]
none = sum(get_character_cell_size(mark) == 0 for mark in marks)
one = sum(libc.wcwidth(mark) >= 1 for mark in marks)
print(f"{len(marks)} spacing marks: rich counts 0 columns for {none}, the C library 1 or more for {one}")
print(f"'हिन्दी': rich {cell_len('हिन्दी')} columns")
sys.exit(not (none > 400 and one > 400))
PYTHON
