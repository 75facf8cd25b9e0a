"""Which classes lean on which filters, and what happens without them."""
