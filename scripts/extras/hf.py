"""The bundled model reads a page and holds to a schema's grammar."""

import sys
from pathlib import Path

from glm4v_core import Glm4v, Image, Message, Regex, Request
from glm4v_core.tasks import ocr

page = Image.load(Path(sys.argv[1]) / "scan-01.png")
with Glm4v.load("tiny", "transformers") as model:
    step = ocr()
    text = step.read(model.generate(step.request(page)))
    assert len(text) > 40, text
    request = Request((Message.user(page, "What is the total?"),), constraint=Regex("[0-9]{3}"))
    assert len(model.generate(request).text) == 3
