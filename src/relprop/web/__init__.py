"""The app of `relprop serve`: choose an image, a model, a class and the rules; the page shows the relevance.

    app = make_app({"resnet50": Session(load_model("resnet50"))})     # an ASGI application

It keeps everything in memory, opens no file that a client names, opens no connection of its own, and runs one
explanation at a time.
"""

from relprop.web.app import make_app
from relprop.web.request import Limits

__all__ = ["Limits", "make_app"]
