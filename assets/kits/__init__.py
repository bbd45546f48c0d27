"""Agent kits: playbooks of tools over the lakehouse, written in YAML, run durably by the bridge."""
