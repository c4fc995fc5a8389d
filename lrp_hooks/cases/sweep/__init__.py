"""Cases by models by rules: attributed, validated, stored and compared."""
