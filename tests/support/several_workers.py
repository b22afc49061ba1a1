"""An executor that reads ahead and copies what it is given, as several processes do, in this process."""

import pickle
from collections import deque

import more_itertools


class SeveralWorkers:
    retries = 0

    def __init__(self, workers):
        self.workers = workers
        self.taken = []  # what each item was, as a worker gets it

    def map(self, work, items):
        work = pickle.loads(pickle.dumps(work))
        items, running = iter(items), deque()
        while batch := more_itertools.take(self.workers - len(running), items) or running:
            if batch is not running:
                running.extend(batch)
            item = pickle.loads(pickle.dumps(running.popleft()))
            self.taken.append(item)
            yield work(item)
