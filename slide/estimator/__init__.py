"""A network as a scikit-learn classifier.

=============  ====================================================
`classifier`   ``SlideClassifier``
`labels`       labels as users have them, and those of the network's outputs
`features`     features as users have them: matrices, data frames, names of columns
`base`         scikit-learn's base classes, or what is used without scikit-learn
=============  ====================================================
"""

from slide.estimator.classifier import DataConversionWarning, NotFittedError, SlideClassifier

__all__ = ["DataConversionWarning", "NotFittedError", "SlideClassifier"]
