"""What was tried against audits and their services: kills, pairs, disks, failing services, soak."""
