"""Print the text of a PDF file."""

import subprocess
import sys

subprocess.run(["pdftotext", "-layout", sys.argv[1], "-"], check=True)
