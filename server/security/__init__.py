"""Creation of certificates and tokens; serving with them doesn't need this package."""
