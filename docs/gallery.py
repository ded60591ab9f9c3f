"""Run the examples of docs/gallery.md, which write its pictures, and make these small: python docs/gallery.py."""

import doctest
import os
import re
from pathlib import Path

from PIL import Image

PAGE = Path(__file__).with_suffix(".md")
COLORS = 96

text = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
os.chdir(PAGE.with_suffix(""))
result = doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0))
for path in Path().glob("*.png"):
    Image.open(path).convert("RGB").quantize(COLORS).save(path, optimize=True)
raise SystemExit(result.failed)
