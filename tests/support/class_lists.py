"""A memory as lists, one for each class, by the rules of RoTTA's paper."""

import math


class Lists:
    """The paper's rules on one list of [age, uncertainty, number of the row] for each class."""

    def __init__(self, capacity, classes, weights):
        self.capacity, self.classes, self.weights = capacity, classes, weights
        self.rows = [[] for _ in range(classes)]

    def score(self, age, h):
        return self.weights[0] / (1 + math.exp(-age / self.capacity)) + self.weights[1] * h / math.log(self.classes)

    def accepts(self, label, h):
        sizes = [len(rows) for rows in self.rows]
        if sizes[label] < self.capacity / self.classes:
            if sum(sizes) < self.capacity:
                return True
            lists = [rows for rows in self.rows if len(rows) == max(sizes)]
        else:
            lists = [self.rows[label]]
        _, worst, found = max((self.score(age, u), i, rows) for rows in lists for i, (age, u, _) in enumerate(rows))
        if self.score(*found[worst][:2]) <= self.score(0, h):
            return False
        del found[worst]
        return True

    def add(self, label, h, number):
        if self.accepts(label, h):
            self.rows[label].append([0, h, number])
        for rows in self.rows:
            for row in rows:
                row[0] += 1

    def content(self):
        return sorted((number, label, age) for label, rows in enumerate(self.rows) for age, _, number in rows)
