"""`lockstep profile`: where one request's time, copies and bytes go, and what binds it."""
