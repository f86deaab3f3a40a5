"""The service of a jobs directory: it runs jobs as their files arrive."""
