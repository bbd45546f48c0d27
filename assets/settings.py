"""The one settings model. Every field is documented in ``docs/settings.md``, generated from here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of one installation, from ``HEADRACE_*`` environment variables.

    Temporal's address comes from Temporal's own environment names (``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``, ...).
    """

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="ignore", frozen=True)

    home: Path = Field(default=Path(".headrace"), description="Folder that holds everything the installation writes.")
    catalog_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the catalog; default: SQLite file `catalog.db` in the home."
    )
    lakehouse: Literal["local", "databricks"] = Field(default="local", description="Lakehouse engine.")
    lakehouse_url: str | None = Field(
        default=None, description="Folder or `s3://bucket/prefix` of the tables; default: `lakehouse` in the home."
    )
    staging_url: str | None = Field(
        default=None,
        description="Where parts are staged, folder or S3 as the tables, with Databricks S3 or GCS; default: `staging` "
        "or `_staging` beside them, a volume with Databricks.",
    )
    retention_hours: float = Field(
        default=24, ge=1, description="How long replaced data files and old log entries of a table stay readable."
    )
    rewrite_mb: int = Field(
        default=32,
        ge=0,
        description="An increment rewrites the data files that it touches, up to this many MiB of them; beyond, it "
        "marks replaced rows by deletion vectors, which is far cheaper, but which some Delta readers refuse.",
    )
    databricks_host: str | None = Field(default=None, description="Databricks workspace: `https://...`.")
    databricks_warehouse_id: str | None = Field(default=None, description="SQL warehouse that runs the statements.")
    databricks_catalog: str = Field(default="main", description="Unity Catalog catalog of the tables.")
    databricks_schema_prefix: str = Field(
        default="", pattern=r"^[a-z0-9_]*$", description="Put before the schemas `bronze` and `silver`."
    )
    databricks_volume: str = Field(
        default="headrace.staging", description="Volume that parts are staged in, `schema.volume` of that catalog."
    )
    databricks_token: SecretStr | None = Field(default=None, description="Personal access token.")
    databricks_client_id: str | None = Field(default=None, description="Service principal (OAuth machine-to-machine).")
    databricks_client_secret: SecretStr | None = Field(default=None, description="Its secret.")
    databricks_profile: str | None = Field(
        default=None, description="Profile of the SDK's own `~/.databrickscfg`; it brings host and credentials."
    )
    databricks_retry_seconds: float = Field(
        default=60, gt=0, description="How long one call is repeated while the workspace is busy or unreachable."
    )
    databricks_statement_seconds: float = Field(
        default=3300, gt=0, description="A statement that takes longer is cancelled."
    )
    s3_endpoint_url: str | None = Field(default=None, description="Endpoint of an S3-compatible store.")
    s3_access_key_id: SecretStr | None = Field(
        default=None, description="S3 access key; default: the ambient credentials."
    )
    s3_secret_access_key: SecretStr | None = Field(default=None, description="S3 secret key.")
    s3_region: str = Field(default="us-east-1", description="S3 region.")
    gcs_service_account_json: SecretStr | None = Field(
        default=None,
        description="Key file of a service account, as text, for staging in GCS; default: the machine's login.",
    )
    gcs_endpoint_url: str | None = Field(default=None, description="Endpoint of a GCS-compatible store.")
    secret_key: SecretStr | None = Field(
        default=None,
        description="Fernet keys of stored secrets, separated by commas, the first one encrypts; default: `secret.key` "
        "in the home, made on first use.",
    )
    vault_kubernetes_role: str | None = Field(
        default=None, description="Role for Vault's Kubernetes login; default: `VAULT_TOKEN`, as Vault's own tools."
    )
    vault_role_id: str | None = Field(default=None, description="Role id for Vault's AppRole login.")
    vault_secret_id: SecretStr | None = Field(default=None, description="Its secret id.")
    azure_vault_url: str = Field(
        default="https://{vault}.vault.azure.net", description="Address of an Azure Key Vault, `{vault}` for its name."
    )
    payload_keys: SecretStr | None = Field(
        default=None,
        description="AES-GCM keys of Temporal payloads: `id:key,id:key`, 32 bytes in base64; the first encrypts.",
    )
    task_queue: str = Field(default="headrace", description="Temporal task queue of the syncs.")
    dagster_url: str | None = Field(
        default=None,
        description="Address of the Dagster webserver, where `headrace up` did not start it: it reloads added tables.",
    )
    code_locations: int | None = Field(
        default=None,
        ge=1,
        le=32,
        description="Dagster code locations that the connectors are spread over; default: one, with `headrace up` "
        "two from 200 connectors on, four from 400 on, eight from 800 on.",
    )
    code_location: int = Field(
        default=1, ge=1, description="Which of them this process serves; `headrace up` sets it for those it starts."
    )
    web_url: str | None = Field(
        default=None,
        description="Address under which people reach the webserver, where it is another: `https://data.example.com/x`.",
    )
    web_session_hours: float = Field(default=168, gt=0, le=8760, description="A login ends after this time.")
    web_idle_hours: float = Field(default=24, gt=0, le=8760, description="A login ends when unused for this time.")
    audit_days: int = Field(default=365, ge=1, description="How long lines of the audit log are kept.")
    internal_token: SecretStr | None = Field(
        default=None,
        description="Credential of the stack's own processes at the webserver; default: `internal.token` in the home.",
    )
    oidc_issuer: str | None = Field(
        default=None, description="OpenID Connect provider whose people may log in: `https://login.example.com`."
    )
    oidc_client_id: str | None = Field(default=None, description="Client id at the provider.")
    oidc_client_secret: SecretStr | None = Field(default=None, description="Client secret at the provider.")
    oidc_scopes: str = Field(default="openid profile email", description="Scopes asked of the provider.")
    oidc_name_claim: str = Field(default="email", description="Claim that becomes the user's name.")
    oidc_role_claim: str = Field(default="groups", description="Claim that the roles are taken from.")
    oidc_roles: str = Field(
        default="",
        description="Roles by value of the claim: `admin=platform,operator=analysts,viewer=*`; none fits: refused.",
    )
    notify_url: SecretStr | None = Field(
        default=None,
        description="Who hears of a failed run: webhook or Slack `https://...`, mail `smtp://user:password@host?to=a@b`.",
    )
    url_allow: str = Field(
        default="",
        description="Hosts, addresses and networks that user-supplied URLs may reach though they are not public, "
        "separated by commas: `api.internal,10.1.0.0/16`.",
    )
    extract_threads: int = Field(default=2, ge=1, le=64, description="Parallel readers of one table.")
    chunk_mb: int = Field(
        default=512,
        ge=1,
        description="A table of twice as many MiB or more is read in chunks of about this size, one activity each.",
    )
    sync_concurrency: int = Field(default=4, ge=1, le=256, description="Tables synced at once by one worker.")
    memory_limit: str = Field(default="256MB", description="DuckDB memory limit of one reader or merge.")
    heartbeat_timeout_seconds: float = Field(
        default=60, gt=0, description="After this silence an activity is given to another worker."
    )
    heartbeat_throttle_seconds: float = Field(
        default=5, gt=0, description="Longest delay of a heartbeat; a cancel arrives with it."
    )
    connect_timeout_seconds: float = Field(
        default=8, gt=0, description="Network timeout of one connection attempt to a source."
    )
    read_silence_seconds: float = Field(
        default=110, gt=0, description="A source read without progress for this long fails."
    )
    worker_metrics_address: str | None = Field(
        default=None, description="Where a worker serves its figures for Prometheus, `host:port`; default: nowhere."
    )
    worker_wait_seconds: float = Field(default=300, gt=0, description="How long a run waits for a worker to appear.")
    kits_folder: Path | None = Field(
        default=None, description="Folder of the installation's agent kits; default: `kits` in the home."
    )
    kit_modules: str = Field(
        default="", description="Python modules that register functions for agent kits, separated by commas."
    )
    knowledge_embedder: str = Field(
        default="assets.knowledge.embedder:MiniLm",
        description="`MODULE:NAME` of what turns texts into vectors, for the search by meaning.",
    )
    verify_limit: int = Field(default=20, ge=0, le=10_000, description="Differing keys named by `verify`.")

    @property
    def home_path(self) -> Path:
        return self.home.expanduser().resolve()
