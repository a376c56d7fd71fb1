"""Constitutions: principles by which responses are judged, criticised and revised. Three come with
accord, as YAML files beside this one."""
