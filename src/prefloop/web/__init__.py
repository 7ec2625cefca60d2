"""The page on which people chat and judge, and the one on which researchers watch. Never imports torch.

`create_app` makes the ASGI application; models are reached through `schema.Responder` alone, facts through the store.
"""

from prefloop.web.accounts import researcher_link, setup_link
from prefloop.web.app import create_app
from prefloop.web.people import payment_csv
from prefloop.web.settings import PageSettings

__all__ = ["PageSettings", "create_app", "payment_csv", "researcher_link", "setup_link"]
