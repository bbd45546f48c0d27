"""Login at an OpenID Connect provider: authorization code with PKCE; the provider's claims give name and role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from itsdangerous import BadSignature
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from assets.catalog.access_records import ROLES, Role, UserRecord
from assets.errors import ConfigurationError, SourceAccessError, SourceUnreachableError
from assets.settings import Settings
from orchestration.web.origin import is_loopback
from orchestration.web.signed_cookies import signer
from orchestration.web.templates import prefix_of

if TYPE_CHECKING:
    from authlib.integrations.starlette_client import StarletteOAuth2App

COOKIE = "headrace_openid"
FLOW_SECONDS = 600
TIMEOUT_SECONDS = 10
SIGNED_BY_KEY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What an id token may be signed with, whatever the provider offers: not ``none``, and nothing by a shared secret."""
_WHERE = "OpenID Connect"


def role_of(claims: dict[str, Any], settings: Settings) -> Role | None:
    """The highest role that ``oidc_roles`` gives for the claim's values; None: this person may not come in.

    Raises:
        ConfigurationError: the setting names no role.
    """
    value = claims.get(settings.oidc_role_claim, [])
    values = {str(item) for item in value} if isinstance(value, list | tuple) else {str(value)}
    found: set[str] = set()
    for pair in filter(None, (part.strip() for part in settings.oidc_roles.split(","))):
        role, _, wanted = pair.partition("=")
        if role not in ROLES:
            raise ConfigurationError(f"HEADRACE_OIDC_ROLES names {role[:40]!r}, which is no role.", where=_WHERE)
        if wanted == "*" or wanted in values:
            found.add(role)
    return next((role for role in reversed(ROLES) if role in found), None)


def _client(settings: Settings) -> StarletteOAuth2App:
    from authlib.integrations.starlette_client import OAuth

    issuer = (settings.oidc_issuer or "").rstrip("/")
    secret = settings.oidc_client_secret
    client = OAuth().register(
        "provider",
        client_id=settings.oidc_client_id,
        client_secret=secret.get_secret_value() if secret else None,
        server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        client_kwargs={
            "scope": settings.oidc_scopes,
            "code_challenge_method": "S256",
            "timeout": TIMEOUT_SECONDS,
            "follow_redirects": False,
        },
    )
    assert client is not None
    return client


def _provider(request: Request) -> tuple[StarletteOAuth2App, Settings]:
    settings: Settings = request.app.state.headrace.settings
    if not settings.oidc_issuer or not settings.oidc_client_id:
        raise HTTPException(404)
    parts = urlsplit(settings.oidc_issuer)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise HTTPException(500, "HEADRACE_OIDC_ISSUER has to be an https address.")
    if not hasattr(request.app.state, "openid_client"):
        request.app.state.openid_client = _client(settings)
    return request.app.state.openid_client, settings


def public_address(request: Request, path: str) -> str:
    """The address under which the person's browser finds a path of this server."""
    settings: Settings = request.app.state.headrace.settings
    base = (settings.web_url or f"{request.url.scheme}://{request.url.netloc}{prefix_of(request)}").rstrip("/")
    return base + path


async def start(request: Request, target: str) -> Response:
    """Send the browser to the provider; what has to come back with it is kept in a signed cookie."""
    client, settings = _provider(request)
    request.scope["session"] = session = {"target": target}
    try:
        answer: Response = await client.authorize_redirect(
            request, public_address(request, "/headrace/openid/callback")
        )
    except Exception as error:  # the library raises what its HTTP client does
        raise HTTPException(502, f"the provider does not answer ({type(error).__name__})") from None
    answer.set_cookie(
        COOKIE,
        str(signer(settings, "openid").dumps(session)),
        max_age=FLOW_SECONDS,
        path=prefix_of(request) or "/",
        secure=request.app.state.origins.encrypted(request.scope),
        httponly=True,
        samesite="lax",
    )
    return answer


async def _more_claims(client: StarletteOAuth2App, token: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What the provider tells beside its id token, of the same person."""
    if not (await client.load_server_metadata()).get("userinfo_endpoint"):
        return {}
    try:
        more = dict(await client.userinfo(token=token))
    except Exception as error:
        raise SourceUnreachableError(f"the provider does not answer ({type(error).__name__}).", where=_WHERE) from None
    if more.get("sub") != known.get("sub"):
        raise SourceAccessError("the provider vouches for nobody.", where=_WHERE)
    return {name: value for name, value in more.items() if name not in known}


async def logout_address(request: Request) -> str:
    """Where a person ends their session at the provider; our login page where it has no such address."""
    client, settings = _provider(request)
    back = public_address(request, "/headrace/login")
    try:
        address = (await client.load_server_metadata()).get("end_session_endpoint")
    except Exception as error:
        raise HTTPException(502, f"the provider does not answer ({type(error).__name__})") from None
    if not address:
        return back
    mark = "&" if "?" in address else "?"
    query = urlencode({"client_id": settings.oidc_client_id, "post_logout_redirect_uri": back})
    return f"{address}{mark}{query}"


async def finish(request: Request) -> tuple[UserRecord, str]:
    """Check what the provider says. Returns the user and the page they wanted.

    Raises:
        SourceAccessError: the provider refuses, its answer does not fit, or no role is given to this person.
        SourceUnreachableError: it does not answer.
        ConflictError: another user has the name.
    """
    from authlib.integrations.base_client import OAuthError
    from joserfc.errors import JoseError

    client, settings = _provider(request)
    try:
        session = signer(settings, "openid").loads(request.cookies.get(COOKIE, ""), max_age=FLOW_SECONDS)
    except BadSignature:
        raise SourceAccessError("the login took too long, or was begun elsewhere.", where=_WHERE) from None
    request.scope["session"] = session
    try:
        metadata = await client.load_server_metadata()
        offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        metadata["id_token_signing_alg_values_supported"] = [name for name in offered if name in SIGNED_BY_KEY]
        must_be = {
            "iss": {"essential": True, "value": metadata.get("issuer")},
            # The library takes any audience where `azp` is this client.
            "aud": {"essential": True, "value": settings.oidc_client_id},
        }
        token = await client.authorize_access_token(request, claims_options=must_be)
    except (OAuthError, JoseError, ValueError) as error:
        raise SourceAccessError(f"the provider's answer is refused ({type(error).__name__}).", where=_WHERE) from None
    except Exception as error:
        raise SourceUnreachableError(f"the provider does not answer ({type(error).__name__}).", where=_WHERE) from None
    claims = dict(token.get("userinfo") or {})
    if claims and not {settings.oidc_name_claim, settings.oidc_role_claim} <= set(claims):
        claims |= await _more_claims(client, token, claims)
    if not claims.get("sub") or metadata.get("issuer", "").rstrip("/") != (settings.oidc_issuer or "").rstrip("/"):
        raise SourceAccessError("the provider vouches for nobody.", where=_WHERE)
    name = str(claims.get(settings.oidc_name_claim) or "")
    if settings.oidc_name_claim == "email" and claims.get("email_verified") is False:
        raise SourceAccessError("the provider has not verified this mail address.", where=_WHERE)
    role = role_of(claims, settings)
    if role is None or not name:
        raise SourceAccessError("no role is given to this person.", where=_WHERE, remedy="Ask an administrator.")
    access = request.app.state.headrace.catalog.access
    user = await run_in_threadpool(access.admit, settings.oidc_issuer, str(claims["sub"]), name, role)
    return user, str(session.get("target", ""))
