"""A structured fuzzer: valid inputs from the real writers, one or several mutations, and an oracle for each reader.

    seeds -> mutations -> the reader -> refused with a documented error
                                     -> accepted: a judge that shares no code with the reader agrees,
                                        and what was read is written as it was

`engine` draws and judges cases, `mutations*` change inputs, `judge_*` say independently what is valid, and every other
module holds targets: `Target(name, seeds, mutations, reader, errors, ...)`. A case follows from (target, seed, number)
alone: `PYTHONPATH=tests/support python -m fuzzing --target T --seed N --case K` runs it again.
"""
