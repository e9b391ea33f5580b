"""Who may do what at which site: users, tokens, roles, certificates, audit log, pseudonyms."""
