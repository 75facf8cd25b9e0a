"""Re-audits of a folder into which timm, Lightning and Hugging Face's Trainer write at the same time, each for itself.

    python -m benchmarks.mixed_folder --work FOLDER

The trainers run in environments of their own (those of `benchmarks.producers`, where FOLDER is the same), all at once,
while `lavise reaudit` looks at the folder again and again, with whole audits of a small network on generated scenes.
Afterwards each network that a trainer saved must have been audited once, no run may have failed, and the network in
each audit must be one that its trainer had in memory. Exit code 1 where this is not so.
"""
