"""The core alone: images, the scripted engine, and the hint where a model is asked for."""

import io
from importlib.util import find_spec

import PIL.Image

from glm4v_core import Glm4v, Image, Message, Request, ScriptedEngine, errors
from glm4v_core.engines.doctor import examine

unwanted = [name for name in ("torch", "transformers", "numpy", "openai", "langchain_core", "typer") if find_spec(name)]
assert not unwanted, unwanted

written = io.BytesIO()
PIL.Image.new("RGB", (56, 56), "white").save(written, "png")
with Glm4v.from_engine(ScriptedEngine(["A white square."])) as model:
    request = Request((Message.user(Image.load(written.getvalue()), "What is this?"),))
    assert model.generate(request).text == "A white square."
hint = ""
try:
    Glm4v.load("tiny")
except errors.MissingDependencyError as error:
    hint = error.hint or ""
assert hint == "pip install 'glm4v[hf]'"
assert examine().engines["server"].endswith("pip install 'glm4v[server]'")
