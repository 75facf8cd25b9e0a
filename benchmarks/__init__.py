"""One script per measured claim: side by side in one run, with a dated result."""
