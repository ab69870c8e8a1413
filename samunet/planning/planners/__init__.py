"""One module a planner, each with `plan(fingerprint, dataset, target, methods) -> Plan`."""
