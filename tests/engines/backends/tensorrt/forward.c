/* Stands in for one of TensorRT's three libraries where only TensorRT for RTX is: compiled once for
 * each of their names, it hands the entry points of TensorRT's Python module on. The entry points
 * refuse a version that is not their own, so each is given its own.
 * RTX_LIBRARY and PARSER_LIBRARY are the files, as C strings, defined on the compiler's command line. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static void *entry(const char *file, const char *name)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_GLOBAL); /* once loaded, the same handle again */
    void *found = library ? dlsym(library, name) : NULL;
    if (!found) {
        fprintf(stderr, "%s has no %s: %s\n", file, name, dlerror());
        abort();
    }
    return found;
}

static int version(const char *file, const char *name)
{
    return ((int (*)(void))entry(file, name))();
}

#define RTX_VERSION version(RTX_LIBRARY, "getInferLibVersion")
#define PARSER_VERSION version(PARSER_LIBRARY, "getNvOnnxParserVersion")
#define FORWARD_1(file, name, its_version)                                          \
    void *name(void *a, int asked)                                                  \
    {                                                                               \
        (void)asked;                                                                \
        return ((void *(*)(void *, int))entry(file, #name))(a, its_version);        \
    }
#define FORWARD_2(file, name, its_version)                                          \
    void *name(void *a, void *b, int asked)                                         \
    {                                                                               \
        (void)asked;                                                                \
        return ((void *(*)(void *, void *, int))entry(file, #name))(a, b, its_version); \
    }

int getInferLibVersion(void) { return RTX_VERSION; }
int getNvOnnxParserVersion(void) { return PARSER_VERSION; }
FORWARD_1(RTX_LIBRARY, createInferBuilder_INTERNAL, RTX_VERSION)
FORWARD_1(RTX_LIBRARY, createInferRuntime_INTERNAL, RTX_VERSION)
FORWARD_2(RTX_LIBRARY, createInferRefitter_INTERNAL, RTX_VERSION)
FORWARD_2(PARSER_LIBRARY, createNvOnnxParser_INTERNAL, PARSER_VERSION)
FORWARD_2(PARSER_LIBRARY, createNvOnnxParserRefitter_INTERNAL, PARSER_VERSION)

void *getPluginRegistry(void) { return ((void *(*)(void))entry(RTX_LIBRARY, "getPluginRegistry"))(); }
void *getBuilderPluginRegistry(int capability)
{
    return ((void *(*)(int))entry(RTX_LIBRARY, "getBuilderPluginRegistry"))(capability);
}
bool initLibNvInferPlugins(void *log, const char *prefix)
{
    (void)log;
    (void)prefix;
    return true; /* we use none */
}
