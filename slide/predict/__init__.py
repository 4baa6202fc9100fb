"""The k best labels of a sample: exactly, by a search index, or with the help of its nearest neighbours.

================  ============================================================
`masks`           which labels may be predicted
`indexes`         search indexes: prediction without scoring every label
`topk`            from samples to their best labels, in every mode
`probabilities`   the scores of all labels, or of the best, as probabilities
`neighbours`      ``Neighbours``: the nearest training samples, and their votes for labels
`mixture`         ``Mixture``: a network and neighbours, predicting together
`profile`         the quality and the times of a mode, compared with the exact one
================  ============================================================
"""
