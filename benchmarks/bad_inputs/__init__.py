"""More than 200 bad inputs, each made here, and what lavise says of them.

`python -m benchmarks.bad_inputs` gives every input to the reader that an audit would give it to, in this process, and a
few to the command line. Each must end with a clear line, or be counted and left out while the rest of its data set is
read. Any other exception, and any answer that takes too long, makes the script fail.
"""
