"""The app of `relprop serve`: pick a picture, a model, a class and the rules, and see where the probability comes from.

    app = make_app({"resnet50": Workbench(load_model("resnet50"))})     # an ASGI application

It keeps everything in memory, opens no file that a client names, calls nobody, and runs one explanation at a time.
"""

from relprop.web.app import make_app
from relprop.web.limits import Limits

__all__ = ["Limits", "make_app"]
