-- The answers that LangGraph has not taken yet: it keeps an answer by interrupt id only once its node has used it.
--   answers_type, answers  interrupt id -> answer, by LangGraph's serializer; null when nothing is left to deliver
--   questions_closed       md5 of each question row of the root graph that they answer whole
ALTER TABLE aiodurable_runs
    ADD COLUMN IF NOT EXISTS answers_type     text,
    ADD COLUMN IF NOT EXISTS answers          bytea,
    ADD COLUMN IF NOT EXISTS questions_closed text[];
