"""Studies of the method: audits of classifiers, comparisons, the paper's figures."""
