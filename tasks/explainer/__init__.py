"""The explainer: network, training, class head, naming, transfer, and whether it can be believed."""
