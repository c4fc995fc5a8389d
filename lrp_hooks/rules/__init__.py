"""Hook registrars, one file per role: small functions from a site to a removable handle."""
