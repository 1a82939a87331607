// Our own routes: examples for an adapter, its training, its versions. They are there with --feedback alone.
import type { Example } from "../feedback/examples.ts";
import type { Trainer } from "../feedback/trainer.ts";
import { assertName } from "../names.ts";
import { answers, examplesSchema, pathSchema } from "../schemas.ts";
import type { RouteContext } from "./context.ts";

interface Named {
  readonly name: string;
}

export function feedbackRoutes({ app, service }: RouteContext, trainer: Trainer): void {
  const about = (summary: string): object => ({
    tags: ["feedback"],
    summary,
    params: pathSchema("name"),
    response: answers({ type: "object", additionalProperties: true }, "How it stands."),
  });
  const path = "/v1/adapters/:name";
  app.get<{ Params: Named }>(
    path,
    { schema: about("Versions, examples and the last training") },
    async ({ params: { name } }) => {
      assertName(name, "adapter");
      return {
        name,
        ...service.versionsOf(name),
        examples: await trainer.counts(name),
        training: trainer.status(name),
      };
    },
  );
  app.post<{ Params: Named; Body: { examples: readonly Example[] } }>(
    `${path}/examples`,
    { schema: { ...about("Send labelled examples"), body: examplesSchema } },
    async ({ params: { name }, body }) => {
      assertName(name, "adapter");
      return trainer.add(name, body.examples);
    },
  );
  app.delete<{ Params: Named }>(
    `${path}/examples`,
    { schema: about("Delete all examples") },
    async ({ params: { name } }) => {
      assertName(name, "adapter");
      await trainer.clear(name);
      return { examples: await trainer.counts(name) };
    },
  );
  app.post<{ Params: Named }>(
    `${path}/train`,
    { schema: about("Tune from the examples, in the background") },
    async ({ params: { name } }, reply) => {
      assertName(name, "adapter");
      return reply.code(202).send(await trainer.start(name));
    },
  );
  app.get<{ Params: Named }>(
    `${path}/train`,
    { schema: about("How the last training went") },
    async ({ params: { name } }) => {
      assertName(name, "adapter");
      return trainer.status(name);
    },
  );
  app.post<{ Params: Named }>(
    `${path}/rollback`,
    { schema: about("Serve the version before") },
    async ({ params: { name } }) => {
      assertName(name, "adapter");
      return { name, current: await trainer.rollBack(name) };
    },
  );
}
