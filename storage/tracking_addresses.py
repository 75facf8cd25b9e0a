"""Addresses of tracking stores: without user and password where they are written down, and whether a server answers."""

from __future__ import annotations

import base64
import http.client
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request

from lavise.configs.errors import UserError
from lavise.configs.schema import Config
from lavise.storage.state.text import one_line

_ANSWER_SECONDS = 10.0
# What stands before the @ of an address; a password that was not percent-encoded may hold @ or /.
_USER_INFO = re.compile(r"(?<=://)(?:[^/?#\s]*|[^/:@\s]*:(?!\d*[/?#])[^@\s]*)@")


def hide_credentials(text: str) -> str:
    """An address, or a text with addresses in it, without user and password."""
    return _USER_INFO.sub("", text)


def without_credentials(config: Config) -> Config:
    """Settings that may be written down: the tracking server's address without user and password."""
    uri = config.tracking.uri
    tracking = config.tracking.model_copy(update={"uri": uri and hide_credentials(uri)})
    return config.model_copy(update={"tracking": tracking})


def pass_credentials(uri: str) -> str:
    """The address that MLflow's client is to be given.

    User and password of a server go where that client looks for them, the environment of this process; in the address
    they would be told with every error. A database is only opened by its whole address.
    """
    if not is_server(uri):
        return uri
    user, password = _find_credentials(uri)
    if user:
        os.environ.update(MLFLOW_TRACKING_USERNAME=user, MLFLOW_TRACKING_PASSWORD=password)
    return hide_credentials(uri)


def require_answer(uri: str) -> None:
    """One quick request first: MLflow's own client would go on trying for minutes.

    Raises:
        UserError: a server does not answer; whether it lets us in shows with the first real request.
    """
    if not is_server(uri):
        return
    address = hide_credentials(uri)
    try:
        request = urllib.request.Request(address)  # noqa: S310 - http and https only
        user, password = _find_credentials(uri)
        if user:  # not for others, should the server point to them
            token = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
            request.add_unredirected_header("Authorization", f"Basic {token}")
        # An opener of its own: the module's keeps the proxies of its first call.
        with urllib.request.build_opener().open(request, timeout=_ANSWER_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass
    except (ssl.SSLError, urllib.error.URLError) as err:
        # It answers; MLflow's client may know its certificate (MLFLOW_TRACKING_SERVER_CERT_PATH and others).
        if not isinstance(err, ssl.SSLError) and not isinstance(err.reason, ssl.SSLError):
            raise _explain_silence(address, err) from None
    except (OSError, ValueError, http.client.HTTPException) as err:
        raise _explain_silence(address, err) from None


def _explain_silence(address: str, error: Exception) -> UserError:
    return UserError(
        f"tracking.uri: {address} does not answer ({one_line(error)[:120]}); "
        "start that server, or leave tracking.uri and MLFLOW_TRACKING_URI empty for a local SQLite file"
    )


def is_server(uri: str) -> bool:
    """Whether a store is asked over HTTP; else it is a database or a folder."""
    return uri.startswith(("http://", "https://"))


def _find_credentials(uri: str) -> tuple[str, str]:
    """(user, password) that an address holds, decoded; empty where it holds none."""
    found = _USER_INFO.search(uri)
    user, _, password = found[0][:-1].partition(":") if found else ("", "", "")
    return urllib.parse.unquote(user), urllib.parse.unquote(password)
